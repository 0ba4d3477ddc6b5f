# Stands in for Airflow's official slim image where there is no engine (replay.py): its user, places and environment, and
# Airflow itself. Its constraints are those of this repository, for the official ones are in the image alone; celery 5.7
# does not go with the provider, which they would say.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim-bookworm
ARG AIRFLOW_VERSION=3.3.2
RUN useradd --uid 50000 --gid 0 --create-home airflow \
    && install --directory --owner 50000 --group 0 --mode 0775 /opt/airflow /opt/airflow/dags /opt/airflow/config
COPY --chown=50000:0 constraints.txt /home/airflow/constraints.txt
RUN echo 'celery==5.6.3' >> /home/airflow/constraints.txt
ENV PATH=/home/airflow/.local/bin:/usr/local/bin:/usr/bin:/bin \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW_VERSION=3.3.2
WORKDIR /opt/airflow
USER 50000:0
RUN python -m venv --without-pip /home/airflow/.local \
    && pip --python /home/airflow/.local/bin/python install --no-cache-dir --constraint /home/airflow/constraints.txt \
        "apache-airflow==${AIRFLOW_VERSION}" pip
ENTRYPOINT ["airflow"]
